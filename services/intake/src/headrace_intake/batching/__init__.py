"""The work on batches: a step at a time, by whichever process takes one; see `runner`."""
