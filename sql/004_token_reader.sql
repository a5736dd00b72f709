-- A role that may read tokens, and which tokens are rejected, and nothing else: neither key nor secret, no function, no
-- lease. docs/security.md says how to make a key for it.
--
-- Run it after 001, as often as you like. Where its owner may not make roles it leaves a warning, and there is no reader.

begin;

do $$
begin
    -- Roles belong to the whole server: another database, or somebody else, may have made it.
    if not exists (select from pg_catalog.pg_roles where rolname = 'kis_token_reader') then
        create role kis_token_reader nologin noinherit;
        -- On Supabase the API logs in as authenticator and then takes the role that a key names. Only once: an owner who
        -- revokes this, which ends all readers' keys, does not find it granted again.
        if exists (select from pg_catalog.pg_roles where rolname = 'authenticator') then
            grant kis_token_reader to authenticator;
        end if;
    end if;

    if exists (select from pg_catalog.pg_roles where rolname = 'kis_token_reader' and (rolsuper or rolbypassrls)) then
        raise exception 'the role kis_token_reader passes row level security'
            using hint = 'Make it an ordinary one: alter role kis_token_reader nosuperuser nobypassrls.';
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
    -- Policies of the project's own for everybody would add to that one. This one takes away again.
    drop policy if exists api_credentials_token_reader_only on public.api_credentials;
    create policy api_credentials_token_reader_only on public.api_credentials
        as restrictive for all to kis_token_reader
        using (credential_type in ('access_token', 'rejected_tokens') and is_active);
exception
    when insufficient_privilege then
        raise warning 'there is no role kis_token_reader: %', sqlerrm;
end
$$;

notify pgrst, 'reload schema';

commit;
