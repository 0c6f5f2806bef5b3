"""Where s3:// folders are and how they are signed for; a real server reads them in tests/integration/test_remote.py."""

from concurrent.futures import ThreadPoolExecutor

import fsspec.config
import numpy as np
import pytest

from shards.storage.errors import StorageError
from shards.storage.http import HttpStorage
from shards.storage.retry import Limits
from tests.unit.shards.unkind_server import UnkindServer

pytest.importorskip("botocore")

from shards.storage.s3 import S3Address

DATA = np.random.default_rng(10).bytes(1000)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Nothing of this machine's."""
    for name in (
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", f"{tmp_path}/none")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    monkeypatch.setitem(fsspec.config.conf, "s3", {})


def test_buckets_of_amazon(monkeypatch: pytest.MonkeyPatch) -> None:
    assert S3Address("s3://bucket").of("a.tar") == "https://bucket.s3.amazonaws.com/a.tar"
    assert S3Address("s3://dotted.bucket/x/").of("a.tar") == "https://s3.amazonaws.com/dotted.bucket/x/a.tar"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    address = S3Address("s3://bucket/a folder/ü?#x")
    assert (
        address.of("b+c~.tar")
        == "https://bucket.s3.eu-central-1.amazonaws.com/a%20folder/%C3%BC%3F%23x/b%2Bc~.tar"
    )
    assert address.url == "s3://bucket/a folder/ü?#x"
    assert "/eu-central-1/s3/aws4_request" in address.headers(address.of("a"))["Authorization"]


def test_endpoints_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio.lab:9000")
    assert S3Address("s3://bucket/x").of("a") == "http://minio.lab:9000/bucket/x/a"
    settings: dict[str, object] = {"endpoint_url": "https://ceph.lab", "key": "OTHER", "secret": "S"}
    monkeypatch.setitem(fsspec.config.conf, "s3", settings)
    address = S3Address("s3://bucket/x")
    assert address.of("a") == "https://ceph.lab/bucket/x/a"
    assert "Credential=OTHER/" in address.headers(address.of("a"))["Authorization"]
    settings["client_kwargs"] = {"region_name": "mars"}
    address = S3Address("s3://bucket/x")
    assert "/mars/s3/" in address.headers(address.of("a"))["Authorization"]


def test_other_hosts_get_no_signature() -> None:
    address = S3Address("s3://bucket/x")
    assert address.headers("https://elsewhere.com/bucket/x/a") == {}


def test_a_session_token_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "TOKEN")
    address = S3Address("s3://bucket/x")
    assert address.headers(address.of("a"))["X-Amz-Security-Token"] == "TOKEN"


def test_public_buckets_need_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})
    address = S3Address("s3://bucket/x")
    assert address.headers(address.of("a")) == {}
    monkeypatch.setitem(fsspec.config.conf, "s3", {})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    address = S3Address("s3://bucket/x")
    assert address.headers(address.of("a")) == {}
    assert "asked without credentials: set AWS_PROFILE" in address.advice(403)


def test_settings_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(
        ValueError, match=r"s3://bucket: The config profile \(nobody\) could not be found; check the AWS_"
    ):
        S3Address("s3://bucket")


def test_a_bucket_in_another_region_is_asked_again_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with UnkindServer({"/bucket/x/a": DATA}) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        server.always = "region:eu-west-3"
        storage = HttpStorage(S3Address("s3://bucket/x"), Limits(tries=1))
        assert storage.read("a", 5, 50) == storage.read("a", 5, 50) == DATA[5:50]
        assert [request.headers["Authorization"].split("/")[2] for request in server.requests] == [
            "us-east-1",
            "eu-west-3",
            "eu-west-3",
        ]
        server.delay_s = 0.1
        storage = HttpStorage(S3Address("s3://bucket/x"), Limits(tries=1))
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda n: storage.read("a", n, 500), range(8))) == [
                DATA[n:500] for n in range(8)
            ]


def test_a_public_bucket_that_only_redirects_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})
    with UnkindServer({"/bucket/x/a": DATA}, always="region:mars") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with pytest.raises(StorageError, match="s3://bucket/x/a: the server refused: 301 Moved Permanently"):
            HttpStorage(S3Address("s3://bucket/x")).read("a", 5, 50)


def test_the_reason_that_s3_gives_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with UnkindServer({"/bucket/x/a": DATA}, always="denied") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with pytest.raises(
            StorageError, match=r"403 Forbidden \(AccessDenied\); check the credentials"
        ) as caught:
            HttpStorage(S3Address("s3://bucket/x")).read("a", 5, 50)
    assert "SECRET" not in str(caught.value)
    assert "AKEY" not in str(caught.value)
