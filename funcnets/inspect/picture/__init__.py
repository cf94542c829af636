"""How the flow of a net becomes a picture: a graph of it, a place for all that is in the graph, and SVG."""
