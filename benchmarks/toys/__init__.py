"""Problems so small that what is sought is known in closed form."""
