"""The ``arqd`` command: `command` puts together what each of the other modules registers."""
