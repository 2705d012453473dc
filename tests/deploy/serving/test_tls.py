"""TLS over HTTP and gRPC with a certificate made for the test."""

from __future__ import annotations

import http.client
import shutil
import ssl
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from fake_run import SIZE, write_engine
from serving_process import Server

pytestmark = pytest.mark.xdist_group("serving")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="making a certificate needs openssl")
def test_http_and_grpc_speak_tls(tmp_path: Path) -> None:
    write_engine(tmp_path / "bundle", "painter", highest=1)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=here"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(
        [*make, *names, "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    with Server(tmp_path / "bundle", "--tls", certificate, key, log=tmp_path / "log") as server:
        trusted = ssl.create_default_context(cafile=str(certificate))
        asks = http.client.HTTPSConnection(server.host, server.port, context=trusted, timeout=20)
        asks.request("GET", "/v2/models/painter")
        assert asks.getresponse().status == 200
        asks.close()
        strange = http.client.HTTPSConnection(server.host, server.port, timeout=20)
        with pytest.raises(ssl.SSLCertVerificationError):
            strange.request("GET", "/v2")
        with pytest.raises((OSError, http.client.HTTPException)):
            server.ask("GET", "/v2")  # no TLS, no answer
        images = np.full((1, *SIZE, 3), 1, dtype=np.uint8)
        given = grpc_client.InferInput("images", list(images.shape), "UINT8")
        given.set_data_from_numpy(images)
        with grpc_client.InferenceServerClient(
            server.grpc, ssl=True, root_certificates=str(certificate)
        ) as client:
            assert (client.infer("painter", [given]).as_numpy("class_map") == 1).all()
