"""What a message log's layout costs and how to mend it: what varies inside the prefix, where breakpoints belong, which lifetime."""
