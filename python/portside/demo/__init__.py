"""``portside demo``: real MariaDB, a PHP-like load, and Portside in front of it."""
