"""A fleet of edges and one server in virtual time, around the objects that the real ones run."""
