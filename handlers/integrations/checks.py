"""What ``arqd check`` tries of the services outside: see ``handlers.CHECKS``."""

from __future__ import annotations

from typing import Any


async def mail_server(settings: Any) -> str | None:
    """Connect to the mail server with TLS and AUTH as they are set; nothing is sent.

    Args:
        settings: with the sections ``smtp`` and ``email``.

    Returns:
        What was reached; None when no mail server is set.

    Raises:
        MailUnavailable: telling why it cannot be used.
        OSError: when the file of authorities cannot be read.
        ValueError: when mail could not be sent for want of a sender.
    """
    if settings.smtp.host is None:
        return None
    if settings.email.sender is None:
        raise ValueError("ARQD_EMAIL__SENDER is not set: a mail server does not take mail without a sender")
    from handlers.integrations.smtp import SmtpPool

    pool = SmtpPool(settings.smtp)
    try:
        await pool.check()
    finally:
        await pool.close()
    return f"{pool.where}, {settings.smtp.tls}, {'with' if settings.smtp.username else 'without'} login"


async def database(settings: Any) -> str | None:
    """Connect to the database and compare its tables with this release's.

    Args:
        settings: with ``database_url`` and the section ``database``.

    Returns:
        What was reached; None where no database is named and none was made yet.

    Raises:
        ConfigurationError, DatabaseUnavailable: telling why it cannot be used.
    """
    if not settings.has_database:
        return None
    from handlers.integrations.database import Database

    found = await Database.open(settings)
    await found.close()
    return found.where


async def object_store(settings: Any) -> str | None:
    """Ask the object store for an object that is not there.

    Args:
        settings: see `handlers.integrations.object_store.opening.open_store`.

    Returns:
        What was reached; None where no store is named.

    Raises:
        ConfigurationError, StoreRefused, StoreUnavailable: telling why it cannot be used.
    """
    if settings.object_store_url is None:
        return None
    from handlers.integrations.object_store.opening import open_store

    store = open_store(settings)
    try:
        return await store.check()
    finally:
        await store.close()


async def virus_scanner(settings: Any) -> str | None:
    """Ask clamd for its version.

    Args:
        settings: with the section ``files``.

    Returns:
        What it calls itself; None where no scanner is named.

    Raises:
        ScannerUnavailable: it is not reached.
    """
    if "clamd" not in settings.files.model_fields_set or not settings.files.virus_scan:
        return None
    from handlers.integrations.clamd import Clamd

    return await Clamd(settings.files.clamd, settings.files.clamd_timeout).version()
