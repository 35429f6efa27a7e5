"""One port to models, the clients behind it, a price book, and a simulator of the providers' wire formats."""
