"""haproxy.cfg to a draft, in the order in which the files of this folder stand behind each other.

    words, conditions, sections     text to sections of statements
    proxies                         what inherits what
    process, binds, access, servers, checks, settings, services
                                    statements to keys, each saying what became of it
    reasons                         why the others have no counterpart

`vouch` asks a real HAProxy whether it takes the file; the only thing here that starts a program.
"""
