"""Users, as far as messages to them go: where they are reached, what they want, and what they were told in the app.

``store`` is who they are, their preferences and devices; ``preferences`` what they want and when; ``inbox`` their
notifications; ``tables`` where all of it is. Families and services use `Users` and `Inbox`::

    database = await Database.open(settings)
    await Users(database).save("ada", email="ada@example.com", timezone="Europe/Paris")
    await Inbox(database).unread_count("ada")
"""
