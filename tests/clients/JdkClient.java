// Predicts and explains with the JDK's own HTTP client, which sends `Upgrade: h2c` over http: JdkClient IMAGE URL…
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.util.Arrays;

class JdkClient {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        var image = Path.of(arguments[0]);
        for (var url : Arrays.asList(arguments).subList(1, arguments.length)) {
            for (var path : new String[] {"/predict", "/explain?method=grad_cam", "/predict"}) {
                var request = HttpRequest.newBuilder(URI.create(url + path))
                    .header("Content-Type", "image/jpeg")
                    .POST(HttpRequest.BodyPublishers.ofFile(image))
                    .build();
                var response = client.send(request, HttpResponse.BodyHandlers.ofString());
                System.out.println(response.statusCode() + " " + response.body());
            }
        }
    }
}
