"""Files from untrusted sources: loading it safely, its external data, operators, networks, graphs and signatures."""
