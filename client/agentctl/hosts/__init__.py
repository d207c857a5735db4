"""How a server is made a host, changes its version and is let go; `link.book` knows them."""
