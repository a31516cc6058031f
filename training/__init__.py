"""What makes a bundle: data, networks, fitting, export. Imports the contract and the engine of service, never the other way."""
