// Predicts and explains with the JDK's own HTTP client, which sends `Upgrade: h2c` over http.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;

class JdkClient {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        for (var path : new String[] {"/predict", "/explain?method=grad_cam", "/predict"}) {
            var request = HttpRequest.newBuilder(URI.create(arguments[0] + path))
                .header("Content-Type", "image/jpeg")
                .POST(HttpRequest.BodyPublishers.ofFile(Path.of(arguments[1])))
                .build();
            var response = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.body());
        }
    }
}
