"""One port for models, the clients that implement it, a price book, and a simulator of the providers' wire formats."""
