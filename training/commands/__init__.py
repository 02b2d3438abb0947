"""The commands of ``python -m training``, one a file.

Each has ``add_parser(subparsers)``, which names its flags, and ``run(arguments)``, which imports
what it needs, so that asking for help stays quick.
"""
