"""What ships with arqd, by name: families, the sections they add to the settings, and what ``arqd check`` tries.

A user's own families are added with ``ARQD_FAMILIES={"name": "module:Class"}``. The top-level package of such a class
may have tables ``SETTINGS`` and ``CHECKS`` of its own.
"""

#: Family to its ``WorkerSettings``. The one table.
FAMILIES = {
    "analytics": "handlers.analytics.worker:WorkerSettings",
    "email": "handlers.email.worker:WorkerSettings",
    "files": "handlers.files.worker:WorkerSettings",
    "media": "handlers.media.worker:WorkerSettings",
    "maintenance": "handlers.maintenance.worker:WorkerSettings",
    "exports": "handlers.exports.worker:WorkerSettings",
    "notifications": "handlers.notifications.worker:WorkerSettings",
    "reports": "handlers.reports.worker:WorkerSettings",
    "payments": "handlers.payments.worker:WorkerSettings",
    "push": "handlers.push.worker:WorkerSettings",
    "ai": "handlers.ai.worker:WorkerSettings",
    "blockchain": "handlers.blockchain.worker:WorkerSettings",
    "social": "handlers.social.worker:WorkerSettings",
    "webhooks": "handlers.webhooks.worker:WorkerSettings",
}

#: Section of the settings (``ARQD_SMTP__HOST`` is in ``smtp``) to its pydantic model. Commands import it when something
#: of it is set, so the modules named here import nothing but pydantic.
SETTINGS = {
    "analytics": "handlers.analytics.settings:AnalyticsSettings",
    "email": "handlers.email.settings:EmailSettings",
    "files": "handlers.files.settings:FilesSettings",
    "media": "handlers.media.settings:MediaSettings",
    "notifications": "handlers.notifications.settings:NotificationsSettings",
    "push": "handlers.push.settings:PushSettings",
    "webhooks": "handlers.webhooks.settings:WebhooksSettings",
    "smtp": "handlers.integrations.smtp_settings:SmtpSettings",
    "database": "handlers.integrations.database_settings:DatabaseSettings",
    "maintenance": "handlers.maintenance.settings:MaintenanceSettings",
    "payments": "handlers.payments.settings:PaymentsSettings",
    "exports": "handlers.exports.settings:ExportsSettings",
    "social": "handlers.social.settings:SocialSettings",
    "ai": "handlers.ai.settings:AiSettings",
    "blockchain": "handlers.blockchain.settings:BlockchainSettings",
    "reports": "handlers.reports.settings:ReportsSettings",
    "http": "handlers.integrations.http_settings:HttpSettings",
    "object_store": "handlers.integrations.object_store.settings:ObjectStoreSettings",
}

#: What is tried, to ``async def check(settings) -> str | None``: it gives a line about what it reached, None when it
#: is not set up, and raises what went wrong.
CHECKS = {
    "database": "handlers.integrations.checks:database",
    "mail server": "handlers.integrations.checks:mail_server",
    "object store": "handlers.integrations.checks:object_store",
    "virus scanner": "handlers.integrations.checks:virus_scanner",
}

#: Groups of commands that families bring, ``arqd webhooks list``, to their Typer application.
COMMANDS = {
    "notifications": "handlers.notifications.commands:app",
    "webhooks": "handlers.webhooks.commands:app",
}

#: What opens the database of these settings, for the commands that need it.
DATABASE = "handlers.integrations.database:Database"

#: What opens the object store of these settings.
OBJECT_STORE = "handlers.integrations.object_store.opening:open_store"
