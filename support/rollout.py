"""Callers that send on while the servers behind an address are replaced."""

import asyncio
import re

HEAD = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: image/png\r\nContent-Length: %d\r\n\r\n"
)


async def call(
    address: tuple[str, int],
    image: bytes,
    pause: float,
    statuses: list[int | str],
    done: asyncio.Event,
) -> None:
    """Sends a PNG over one connection, and again over the next one where it ends, until `done`.

    The caller makes a `pause` of so many seconds between two requests. `statuses` gets the status
    of each answer; of a request without one, the error.
    """
    while not done.is_set():
        reader, writer = await asyncio.open_connection(*address)
        try:
            while not done.is_set():
                writer.write(HEAD % len(image) + image)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = re.search(rb"content-length: (\d+)", head)
                assert length, head
                await reader.readexactly(int(length[1]))
                statuses.append(int(head[9:12]))
                await asyncio.sleep(pause)
        except (OSError, asyncio.IncompleteReadError) as error:
            statuses.append(repr(error))
        finally:
            writer.close()
