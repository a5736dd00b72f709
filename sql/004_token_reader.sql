-- The role kis_token_reader of read-only keys. The role may read tokens and the list of rejected tokens. The role may
-- not read keys or secrets, call functions, or use the lease. docs/security.md describes how to make a read-only key.
--
-- Run this file after 001_api_credentials.sql. You may run the file again at any time. If the database user that runs
-- this file may not create roles, PostgreSQL shows a warning, and this file makes no role.

begin;

do $$
begin
    -- Roles belong to the whole server, so another database or program may have made the role.
    if not exists (select from pg_catalog.pg_roles where rolname = 'kis_token_reader') then
        create role kis_token_reader nologin noinherit;
        -- On Supabase the API logs in as authenticator and then takes the role that a key names. If an owner revokes
        -- the grant of kis_token_reader to authenticator, no read-only key works. So this file makes the grant only
        -- when it makes the role: another run of this file does not restore a revoked grant.
        if exists (select from pg_catalog.pg_roles where rolname = 'authenticator') then
            grant kis_token_reader to authenticator;
        end if;
    end if;

    if exists (select from pg_catalog.pg_roles where rolname = 'kis_token_reader' and (rolsuper or rolbypassrls)) then
        raise exception 'the role kis_token_reader bypasses row level security'
            using hint = 'Make it an ordinary role: alter role kis_token_reader nosuperuser nobypassrls.';
    end if;

    revoke all on all tables in schema public from kis_token_reader;
    revoke all on all sequences in schema public from kis_token_reader;
    revoke all on all functions in schema public from kis_token_reader;
    grant usage on schema public to kis_token_reader;
    grant select (service_name, credential_type, credential_value, expires_at, is_active, version)
        on table public.api_credentials to kis_token_reader;

    drop policy if exists api_credentials_token_reader on public.api_credentials;
    create policy api_credentials_token_reader on public.api_credentials
        for select to kis_token_reader
        using (credential_type in ('access_token', 'rejected_tokens') and is_active);
    -- If the project has a policy for all roles, that policy could let kis_token_reader read keys. The restrictive
    -- policy api_credentials_token_reader_only limits kis_token_reader to the active rows of tokens and rejected
    -- tokens.
    drop policy if exists api_credentials_token_reader_only on public.api_credentials;
    create policy api_credentials_token_reader_only on public.api_credentials
        as restrictive for all to kis_token_reader
        using (credential_type in ('access_token', 'rejected_tokens') and is_active);
exception
    when insufficient_privilege then
        raise warning 'the role kis_token_reader is not set up: %', sqlerrm;
end
$$;

notify pgrst, 'reload schema';

commit;
