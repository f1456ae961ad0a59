# SPDX-License-Identifier: Apache-2.0
"""Access to an MLflow server, with the environment variables and file of MLflow's own client."""

import configparser
import os
import ssl
from pathlib import Path
from typing import Any, Final

import httpx

USER: Final = 'MLFLOW_TRACKING_USERNAME'
PASSWORD: Final = 'MLFLOW_TRACKING_PASSWORD'  # noqa: S105 (a name)
TOKEN: Final = 'MLFLOW_TRACKING_TOKEN'  # noqa: S105 (a name)
INSECURE: Final = 'MLFLOW_TRACKING_INSECURE_TLS'
SERVER_CERTIFICATE: Final = 'MLFLOW_TRACKING_SERVER_CERT_PATH'
CLIENT_CERTIFICATE: Final = 'MLFLOW_TRACKING_CLIENT_CERT_PATH'
#: Key of the text that explains an HTTP error, by status.
_ERROR_TEXTS: Final = {401: 'mlflow_unauthorized', 403: 'mlflow_forbidden'}


def mlflow_client(uri: str, timeout_s: float) -> httpx.Client:
    """Return a client for an address on the server; credentials in the address have priority.

    Raises:
        OSError, ValueError: a certificate or the credentials file cannot be read.
    """
    options: dict[str, Any] = {}
    if not httpx.URL(uri).userinfo:
        user, password = _user_and_password()
        token = _variable(TOKEN)
        if user and password:
            options['auth'] = (user, password)
        elif token:
            options['headers'] = {'Authorization': f'Bearer {token}'}
    if uri.startswith('https:'):
        options['verify'] = _tls()
    return httpx.Client(base_url=uri, timeout=timeout_s, **options)


def error_text(error: Exception) -> str:
    """Return the key of the text that explains why a server could not be read."""
    if isinstance(error, httpx.HTTPStatusError):
        return _ERROR_TEXTS.get(error.response.status_code, 'mlflow_failed')
    return 'mlflow_failed'


def _variable(name: str) -> str:
    return os.environ.get(name, '').strip()


def _user_and_password() -> tuple[str, str]:
    saved = configparser.ConfigParser(interpolation=None)
    try:
        saved.read(Path('~/.mlflow/credentials').expanduser(), encoding='utf-8')
    except configparser.Error as error:
        raise ValueError('~/.mlflow/credentials is not a valid credentials file') from error
    user, password = (
        _variable(name) or saved.get('mlflow', name.lower(), fallback='')
        for name in (USER, PASSWORD)
    )
    return user, password


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=_variable(SERVER_CERTIFICATE) or None)
    if _variable(INSECURE).lower() in ('true', '1'):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate := _variable(CLIENT_CERTIFICATE):
        context.load_cert_chain(certificate)
    return context
