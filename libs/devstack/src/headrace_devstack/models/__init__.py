"""`headrace models`: which model is on which node, which should be, and putting it there."""
