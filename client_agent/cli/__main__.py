"""`python -m client_agent.cli` is `syncline`."""

from client_agent.cli import main

main()
