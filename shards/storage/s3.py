"""Where the files of an s3:// folder are, and how requests for them are signed.

Only the addresses and signatures come from botocore; the bytes come through `shards.storage.http`, with its deadlines.
Credentials travel in signed headers, so that no URL ever holds any.
"""

import os
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.session
import fsspec.config
from botocore import UNSIGNED
from botocore.exceptions import BotoCoreError

from shards.storage.retry import TransientError

_PROBE = "x"


class _Resolved(Exception):  # noqa: N818 - no error: how a request is stopped once its URL is known
    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url


def _stop_before_signing(request: Any, **_: Any) -> None:  # noqa: ANN401 - botocore's request
    raise _Resolved(request.url)


class S3Address:
    """A folder of a bucket.

    Set as for s3fs and the AWS tools: fsspec's configuration (`FSSPEC_S3_ENDPOINT_URL`, `FSSPEC_S3_ANON=true`, ...)
    first, then the AWS environment and files (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, roles of the machine, ...). Where no
    credentials are found the bucket is asked without.
    """

    def __init__(self, root: str) -> None:
        """`root` is s3://bucket or s3://bucket/folder.

        Raises:
            ValueError: It names no bucket, or what the environment says about S3 does not fit.
        """
        parts = urlsplit(root)
        if not parts.netloc or "@" in parts.netloc:
            raise ValueError(
                "s3://...: not the URL of a bucket; write s3://bucket/folder, and give credentials as for the AWS tools"
            )
        self._bucket = parts.netloc
        # In a key, "?" and "#" are plain characters.
        self._prefix = root.partition("://")[2][len(parts.netloc) :].strip("/")
        self.url = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self._settings: dict[str, Any] = fsspec.config.conf.get("s3", {})
        self._lock = threading.Lock()
        try:
            self._session = botocore.session.Session(profile=self._settings.get("profile"))
            self._credentials = self._find_credentials()
            self._base, self._region = self._resolve(None)
        except (BotoCoreError, ValueError) as error:
            raise ValueError(f"{self.url}: {error}; check the AWS_* and FSSPEC_S3_* variables") from None

    @property
    def ca_certs(self) -> str | None:
        """A file of certificates to trust, where one is named for S3."""
        verify = self._settings.get("client_kwargs", {}).get("verify")
        return verify if isinstance(verify, str) else os.environ.get("AWS_CA_BUNDLE")

    def of(self, file: str) -> str:
        """The URL of a file at the endpoint."""
        return self._base + quote(file, safe="/~")

    def headers(self, url: str) -> Mapping[str, str]:
        """A signature, for this endpoint only.

        Raises:
            TransientError: The credentials have run out and new ones cannot be had at the moment.
        """
        if self._credentials is None or urlsplit(url).netloc != urlsplit(self._base).netloc:
            return {}
        request = botocore.awsrequest.AWSRequest("GET", url, headers={})
        try:
            frozen = self._credentials.get_frozen_credentials()
            botocore.auth.S3SigV4Auth(frozen, "s3", self._region).add_auth(request)
        except BotoCoreError as error:
            raise TransientError(f"no valid credentials ({type(error).__name__})") from None
        return dict(request.headers.items())

    def corrected(self, url: str, sent: Mapping[str, str], received: Mapping[str, str]) -> bool:
        """Whether an answer told that the bucket is in another region than the one that was asked and signed for."""
        region = received.get("x-amz-bucket-region", "")
        if not region:
            return False
        with self._lock:
            if region != self._region:
                self._base, self._region = self._resolve(region)
        # Another thread may have learnt it while this one's request was on its way.
        signed = sent.get("Authorization", "")
        return not url.startswith(self._base) or (bool(signed) and f"/{region}/s3/" not in signed)

    def advice(self, status: int) -> str:
        """What to check where the server refuses."""
        if self._credentials is None:
            return (
                "asked without credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY if the "
                "bucket is not public"
            )
        return (
            "check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, ...), their rights to read this bucket, and the name: "
            "a missing file is also refused where they may not list"
        )

    def _find_credentials(self) -> Any:  # noqa: ANN401 - botocore's Credentials, or None
        client = self._settings.get("client_kwargs", {})
        if self._settings.get("anon"):
            return None
        key = self._settings.get("key") or client.get("aws_access_key_id")
        secret = self._settings.get("secret") or client.get("aws_secret_access_key")
        token = self._settings.get("token") or client.get("aws_session_token")
        if key and secret:
            self._session.set_credentials(key, secret, token)
        return self._session.get_credentials()

    def _resolve(self, region: str | None) -> tuple[str, str]:
        """The URL that names of files are appended to, and the region to sign for."""
        given = self._settings.get("client_kwargs", {})
        client = self._session.create_client(
            "s3",
            endpoint_url=self._settings.get("endpoint_url") or given.get("endpoint_url"),
            region_name=region or given.get("region_name"),
            use_ssl=self._settings.get("use_ssl", True),
            config=botocore.config.Config(**self._settings.get("config_kwargs", {})).merge(
                botocore.config.Config(signature_version=UNSIGNED)
            ),
        )
        key = f"{self._prefix}/{_PROBE}" if self._prefix else _PROBE
        # A presigned URL would do as well, had it not the global endpoint's host for most regions.
        client.meta.events.register_last("before-sign.s3.GetObject", _stop_before_signing)
        try:
            client.get_object(Bucket=self._bucket, Key=key)
            raise AssertionError("unreachable: nothing is ever sent")
        except _Resolved as resolved:
            url = resolved.url
        region = client.meta.region_name
        client.close()
        return url.removesuffix(_PROBE), "us-east-1" if region in (
            None,
            "aws-global",
        ) else region
