"""Reports: figures of a day, a week or any period beside those of the period before, as PDF, CSV and JSON.

``payloads`` what the jobs carry, ``tasks`` the function, ``worker`` the family. ``periods`` is time, ``metrics`` where
figures come from (``system`` brings those of the queues), ``figures`` puts them together; ``texts`` are its words and
numbers in English and French, ``files`` and ``report.typ`` what is written.
"""
