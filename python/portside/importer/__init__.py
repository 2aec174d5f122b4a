"""Configurations of other balancers to portside.toml: haproxy.cfg today, ProxySQL's tables too.

    notes       what became of each line
    draft       the configuration while it is being made
    haproxy/    haproxy.cfg to a draft        proxysql/   proxysql.cnf to a draft
    settle      makes a draft one that `portside check` passes here
    write       a draft to TOML, with comments
    imported    all of it as one function

Nothing is guessed silently: what is not carried over stays as a comment with the reason.
"""
