"""What goes over the network: requests that end."""
