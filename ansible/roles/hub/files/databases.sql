-- What is missing of the hub's databases and their users; says what it made, and nothing when all was there.
SELECT format('CREATE ROLE %I LOGIN', name)
  FROM unnest(ARRAY['idl_hub', 'jupyterhub', 'idl_hub_web']) AS name
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec
-- What a machine is set to decides neither how names are sorted nor what can be stored.
SELECT format(
    'CREATE DATABASE %1$I OWNER %1$I ENCODING UTF8 LC_COLLATE %2$L LC_CTYPE %2$L TEMPLATE template0', name, 'C.UTF-8')
  FROM unnest(ARRAY['idl_hub', 'jupyterhub']) AS name
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)
\gexec
-- The GPU pages use the tables of idl_hub, and none of JupyterHub's.
SELECT 'GRANT idl_hub TO idl_hub_web' WHERE NOT pg_has_role('idl_hub_web', 'idl_hub', 'MEMBER')
\gexec
