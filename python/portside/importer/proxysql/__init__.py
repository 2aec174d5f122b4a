"""proxysql.cnf to a draft: `libconfig` reads the grammar, `carry` knows the tables."""
