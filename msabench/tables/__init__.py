"""Result tables as data, and their rendering."""
