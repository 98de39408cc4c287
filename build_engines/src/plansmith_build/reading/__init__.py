"""A file nobody vouches for: loading it safely, its external data, operators, networks, graphs and signatures."""
