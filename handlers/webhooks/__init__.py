"""Webhooks: events posted to other people's endpoints, and those that Stripe posts here.

``payloads`` what the jobs carry, ``tasks`` the functions, ``worker`` the family. ``endpoints`` is what is known of each
receiver, ``turns`` the order where it matters, ``signing`` the headers, ``stripe_events`` the way in, ``commands`` the
command line.
"""
