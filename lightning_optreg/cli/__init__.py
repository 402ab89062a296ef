"""The command line: `python -m lightning_optreg fit|validate|test|predict`, on LightningCLI."""
