"""The console: the management API under ``/api/v1``, and what the dashboard's pages are served with.

Reading order: ``services`` (what requests need), ``roles``, ``access`` (who asks), ``app`` (routes and middleware),
``api/`` (thin routes, a module for each noun), and beside it what they call: ``jobs``, ``queues``, ``dead``,
``schedules``, ``live``. Routes and pages change jobs through `daemon.control` and its neighbours only.
"""
