"""The email family. In the order of a mail: ``payloads``, ``tasks``, ``receipts`` (sent before?), ``message``
(templates from ``rendering``, attachments, DKIM), then a transport of ``handlers.integrations``. ``worker`` ties
the family together, ``settings`` is what an operator can set.
"""
