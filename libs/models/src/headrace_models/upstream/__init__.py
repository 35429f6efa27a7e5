"""Where what an upstream says becomes our own values: connections, streams, counts, complaints. Nothing is believed."""
