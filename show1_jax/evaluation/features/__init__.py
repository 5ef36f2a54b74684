"""Features of videos: a module for each network, which knows how a clip becomes the network's input."""
