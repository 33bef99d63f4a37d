"""Whether the server of this container lives, by exit code: asks /healthz, which takes no turn.

Not `gateway-queue status`, as this is done all the time: that one loads ten times as much,
needs the API key, and makes the server list everybody who waits.
"""

import os
import ssl
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection

TIMEOUT = 4.0  # seconds, less than HEALTHCHECK's


def connection() -> HTTPConnection:
    """To where the server listens. Linux takes 0.0.0.0 and :: for the machine itself."""
    host, port = os.environ["HOST"], int(os.environ["PORT"])
    if not os.environ.get("GATEWAY_QUEUE_CERTFILE"):
        return HTTPConnection(host, port, timeout=TIMEOUT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate is for another name
    context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(host, port, timeout=TIMEOUT, context=context)


try:
    healthz = connection()
    healthz.request("GET", "/healthz")
    status = healthz.getresponse().status
except (HTTPException, OSError) as error:
    sys.exit(f"not healthy: {error}")
if status != 200:
    sys.exit(f"not healthy: /healthz answered {status}")
