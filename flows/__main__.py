"""`python -m flows`: see `flows.command_line`. Worker processes import this module, too, but need no command line."""

if __name__ == "__main__":
    from flows.command_line import main

    main()
