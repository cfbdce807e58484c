"""The social family. `tasks` publishes posts, which `posts` keeps, and `mentions` collects what others write. A network
is a driver, one class registered by name (`drivers`): `mastodon` and `bluesky` ship. ``worker`` ties it together.
"""
