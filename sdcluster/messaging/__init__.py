"""Messages between the processes of a cluster, as either end has them."""
