"""`python -m gaussequiv` is the command `gaussequiv`."""

from gaussequiv.report.cli import main

if __name__ == "__main__":
    main()
