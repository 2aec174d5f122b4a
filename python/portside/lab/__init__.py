"""``portside lab``: the article's experiment, run for real in network namespaces.

Three hosts stand in a row: web, proxy (four addresses), database. One load of PHP-like clients runs
on the web host against each strategy in turn, direct, through Portside and through HAProxy, and
TIME_WAIT is counted on each host while it runs.

strategies   what is compared: pure data, and the configuration each balancer gets
scale        how big a run is, and whether this machine can hold it
hosts        the network namespaces, made and removed
path         the path between proxy and database: a delay, and packets dropped
run          one strategy under load, measured
report       results -> table, sentences, JSON
picture      results -> the SVG;  page: the HTML around it
facts        something else with the same hosts and path: the measurements behind Portside's rules
"""
