"""The steps of every family; see `handlers.integrations.migrations`."""
