"""Several runs or several weights together: tables, pictures and measures of them."""
