"""`python -m flows`: see `flows.command_line`. Worker processes also import this module, but need no command line."""

if __name__ == "__main__":
    from flows.command_line import main

    main()
