-- Keyless access: a GitHub Actions job reads or issues a token with its ID token. GitHub stores no secret key of
-- Supabase. The job calls the API with the project's public key. The database compares the claims of the ID token with
-- a list, which defines the access of each job.
--
-- anon and authenticated may call the four functions keyless_* and no other function of sql/. Each function keyless_*
-- checks the signature of the ID token with a function of 006_rs256.sql, and compares the claims of the ID token with
-- the rows of credential_callers. Then keyless_read reads the slot. keyless_begin, keyless_commit and keyless_abort
-- call begin_issuance, commit_issuance and abort_issuance of 002_issuance.sql. The errors have these SQLSTATEs:
--
--   KTA01  id-token-unknown      no ID token, no key of its issuer, or a wrong signature
--   KTA02  id-token-audience     the token was made for another project
--   KTA03  id-token-expired      the token has expired, is too old for this call, is not valid yet, or lacks iat or exp
--   KTA04  caller-not-listed     no row of the list matches the job; the detail is an INSERT with the job's own claims
--   KTA05  caller-may-not        a row matches the job, but its access is lower than this call needs
--   KTA06  id-token-replayed     the token was used to begin another attempt, or another run began this attempt
--   KTA07  id-token-key-unknown  the issuer is known, but the key that signed the token is not
--
-- Run this file after 006_rs256.sql. You may run the file again at any time.

begin;

-- The list of callers -----------------------------------------------------------------------------------------------

-- Returns whether a text is the URL of a Supabase project. GitHub's default audience (https://github.com/OWNER) has a
-- path and is not accepted, because ID tokens with this audience are made for other services too. Plain http is
-- accepted for a project on the same machine.
create or replace function public.issuance_is_audience(audience text) returns boolean
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        audience ~ '^(https://([a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])|http://(127\.0\.0\.1|localhost|\[::1\]))(:[0-9]{1,5})?$'
        and audience !~ '^https://([a-z0-9.-]+\.)?(github\.com|githubusercontent\.com|ghe\.com)(:|$)',
        false)
$$;

-- Returns whether a text is the full name of a branch or a tag. Git forbids blanks and the characters ~^:?*[\ in the
-- name of a branch or a tag, and this function refuses a text with one of them. So the function refuses a pattern with
-- a wildcard. Invisible characters, and characters that change the direction of text, are refused as well. Branches of
-- Dependabot and of merge queues are refused, because they contain code of others.
create or replace function public.issuance_is_ref(ref text) returns boolean
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        ref ~ '^refs/(heads|tags)/[^\u0001-\u0020\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff~^:?*\[\\]{1,244}$'
        and ref !~ '^refs/heads/(dependabot|gh-readonly-queue)/',
        false)
$$;

-- Returns the events that only a person or token with write access can cause. pull_request is left out, because it can
-- run code of a fork. pull_request_target, workflow_run, issue_comment, issues and others are left out, because anybody
-- can cause them on the default branch.
create or replace function public.issuance_events() returns text[]
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select '{schedule,workflow_dispatch,push,repository_dispatch,release}'::text[]
$$;

-- No column contains a pattern: each value is compared as a whole.
create table if not exists public.credential_callers (
    id                  bigint generated always as identity primary key,
    service_name        text not null,
    access              text not null default 'token',
    audience            text not null,
    repository_owner_id text not null,
    repository_id       text not null,
    ref                 text not null,
    events              text[] not null default '{schedule,workflow_dispatch,push}',
    runner_environment  text not null default 'github-hosted',
    environment         text,
    workflow            text,
    job_workflow_ref    text,
    issuer              text not null default 'https://token.actions.githubusercontent.com',
    valid_until         timestamptz,
    note                text,
    created_at          timestamptz not null default now(),
    constraint credential_callers_service check (service_name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
    constraint credential_callers_access check (access in ('token', 'keys', 'issue')),
    constraint credential_callers_audience check (public.issuance_is_audience(audience)),
    constraint credential_callers_owner check (repository_owner_id ~ '^[1-9][0-9]{0,19}$'),
    constraint credential_callers_repository check (repository_id ~ '^[1-9][0-9]{0,19}$'),
    constraint credential_callers_ref check (public.issuance_is_ref(ref)),
    constraint credential_callers_events check (
        cardinality(events) > 0 and array_position(events, null) is null and events <@ public.issuance_events()),
    constraint credential_callers_runner check (runner_environment in ('github-hosted', 'self-hosted')),
    constraint credential_callers_environment check (environment ~ '^[^[:cntrl:]*?]{1,255}$'),
    constraint credential_callers_workflow check (workflow ~ '^\.github/workflows/[^[:space:][:cntrl:]/@*?]{1,200}\.ya?ml$'),
    constraint credential_callers_job_workflow check (
        job_workflow_ref ~ '^[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}/\.github/workflows/[^[:space:][:cntrl:]/@*?]{1,200}\.ya?ml@[^[:space:][:cntrl:]*?]{1,255}$'),
    constraint credential_callers_issuer check (public.issuance_is_issuer(issuer))
);

-- The index allows one row for each combination of slot, repository, ref, issuer, audience, runner_environment,
-- environment, workflow and job_workflow_ref. If the owner lowers the access in a row, no second row for the same jobs
-- keeps the higher access.
create unique index if not exists credential_callers_once on public.credential_callers (
    service_name, repository_id, ref, issuer, audience, runner_environment,
    coalesce(environment, ''), coalesce(workflow, ''), coalesce(job_workflow_ref, '')
);

comment on table public.credential_callers is
    'The jobs that may read or issue without a key: one row for a slot, a repository and a ref. A job without a row has no access. Only the database''s owner writes the table.';
comment on column public.credential_callers.id is 'The number that names the row in errors and in kis-token status.';
comment on column public.credential_callers.service_name is 'The slot: the same value as service_name in api_credentials.';
comment on column public.credential_callers.access is
    'token: the job may read the token. keys: the job may also read the app key and secret. issue: the job may also begin, commit and abort.';
comment on column public.credential_callers.audience is 'The claim aud: this project''s URL, as the job has it in supabase-url.';
comment on column public.credential_callers.repository_owner_id is 'The claim repository_owner_id. A name can get another owner; a number cannot.';
comment on column public.credential_callers.repository_id is 'The claim repository_id.';
comment on column public.credential_callers.ref is 'The claim ref: refs/heads/main, or refs/tags/v1.';
comment on column public.credential_callers.events is 'The values of the claim event_name that are accepted.';
comment on column public.credential_callers.runner_environment is 'The claim runner_environment: github-hosted or self-hosted.';
comment on column public.credential_callers.environment is 'The claim environment; null accepts jobs with any environment and jobs without one.';
comment on column public.credential_callers.workflow is
    'The file of the workflow, .github/workflows/name.yml, of the same repository and ref; null accepts any workflow.';
comment on column public.credential_callers.job_workflow_ref is
    'The claim job_workflow_ref, for a job of a reusable workflow; null accepts any workflow.';
comment on column public.credential_callers.issuer is 'The claim iss.';
comment on column public.credential_callers.valid_until is 'The time from which the row has no effect. If valid_until is null, the row always has an effect.';
comment on column public.credential_callers.note is 'Free text for people, such as the repository''s name.';
comment on column public.credential_callers.created_at is 'The time at which the row was made.';

-- One row for each ID token with which a run has begun an attempt. A row is kept until its ID token cannot be used
-- again.
create table if not exists public.credential_attempts (
    issuer        text not null,
    jti           text not null,
    holder        uuid not null,
    service_name  text not null,
    repository_id text not null,
    run_id        text not null,
    run_attempt   text not null,
    expires_at    timestamptz not null,
    primary key (issuer, jti)
);

create index if not exists idx_credential_attempts_holder on public.credential_attempts (holder);
create index if not exists idx_credential_attempts_expires on public.credential_attempts (expires_at);

comment on table public.credential_attempts is
    'One row for each ID token with which a run has begun an attempt. Only this run may commit or abort the attempt. keyless_begin deletes a row after its expires_at.';
comment on column public.credential_attempts.issuer is 'The claim iss.';
comment on column public.credential_attempts.jti is 'The claim jti. One ID token can begin only one attempt.';
comment on column public.credential_attempts.holder is 'The id of the attempt: the same value as holder in credential_leases.';
comment on column public.credential_attempts.service_name is 'The slot.';
comment on column public.credential_attempts.repository_id is 'The claim repository_id of the run that began the attempt.';
comment on column public.credential_attempts.run_id is 'The claim run_id.';
comment on column public.credential_attempts.run_attempt is 'The claim run_attempt.';
comment on column public.credential_attempts.expires_at is 'The time after which keyless_begin deletes the row. The ID token expires at least one hour earlier.';

-- The check of claims -----------------------------------------------------------------------------------------------

-- Returns the INSERT statement that adds a job with these claims to the list of callers. Returns null if the job cannot
-- be listed.
create or replace function public.issuance_caller_insert(service text, claims jsonb, wanted text) returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if (public.issuance_is_ref(claims ->> 'ref')
        and claims ->> 'repository_owner_id' ~ '^[1-9][0-9]{0,19}$'
        and claims ->> 'repository_id' ~ '^[1-9][0-9]{0,19}$'
        and claims ->> 'runner_environment' in ('github-hosted', 'self-hosted')
        and claims ->> 'event_name' = any (public.issuance_events())) is not true then
        return null;
    end if;
    return (
        select format('insert into public.credential_callers (%s) values (%s);',
                      string_agg(e.name, ', ' order by e.place), string_agg(quote_literal(e.value), ', ' order by e.place))
        from (values
            (1, 'service_name', service),
            (2, 'access', wanted),
            (3, 'audience', claims ->> 'aud'),
            (4, 'repository_owner_id', claims ->> 'repository_owner_id'),
            (5, 'repository_id', claims ->> 'repository_id'),
            (6, 'ref', claims ->> 'ref'),
            (7, 'events', '{' || nullif(nullif(nullif(
                claims ->> 'event_name', 'schedule'), 'workflow_dispatch'), 'push') || '}'),
            (8, 'runner_environment', nullif(claims ->> 'runner_environment', 'github-hosted')),
            (9, 'issuer', nullif(claims ->> 'iss', 'https://token.actions.githubusercontent.com')),
            (10, 'note', substring(claims ->> 'repository' from '^[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}$'))
        ) e (place, name, value)
        where e.value is not null
    );
end
$$;

-- Raises KTA03 if the ID token is not valid now, or if its age in seconds is greater than the argument "oldest". A job
-- asks for an ID token immediately before it uses the token. GitHub's ID tokens are valid for 5 minutes. The issuer's
-- clock may be 30 s ahead.
create or replace function public.issuance_check_times(claims jsonb, oldest integer) returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    present numeric := extract(epoch from clock_timestamp());
    issued  numeric;
    ends    numeric;
    begins  numeric;
    fault   text;
begin
    if jsonb_typeof(claims -> 'iat') is distinct from 'number'
        or jsonb_typeof(claims -> 'exp') is distinct from 'number'
        or claims ? 'nbf' and jsonb_typeof(claims -> 'nbf') <> 'number' then
        raise exception 'the ID token does not say when it was issued and when it ends' using errcode = 'KTA03';
    end if;
    issued := (claims ->> 'iat')::numeric;
    ends := (claims ->> 'exp')::numeric;
    begins := coalesce((claims ->> 'nbf')::numeric, issued);
    fault := case
        when ends <= present then 'it has expired'
        when greatest(issued, begins) > present + 30 then 'it is not valid yet'
        when present - issued > oldest then format('it is older than %s s', oldest)
        when ends - issued > 900 then 'it lives longer than 900 s'
    end;
    if fault is not null then
        raise exception 'the ID token cannot be used at this time: %', fault
            using errcode = 'KTA03', hint = 'Ask GitHub for a new ID token right before each call.';
    end if;
end
$$;

-- Returns the row of the list of callers that matches the claims and whose access (token, keys or issue) includes the
-- wanted access. If the list has no row that matches, or if the ID token is not accepted, raises KTA02, KTA03, KTA04 or
-- KTA05. The claims must come from a token whose signature was checked.
create or replace function public.issuance_caller(service text, claims jsonb, wanted text, oldest integer)
    returns public.credential_callers
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    words   jsonb;
    missing text;
    differs text;
    caller  public.credential_callers;
    levels  constant text[] := '{token,keys,issue}';
begin
    perform public.issuance_check_service(service);
    -- Only claims whose value is a text are compared. If the value of a claim is a list, a number or null, the function
    -- treats the claim as missing.
    select jsonb_object_agg(e.key, e.value) into words from jsonb_each(claims) e where jsonb_typeof(e.value) = 'string';

    -- If the list has no row of this issuer, the audience is not compared. So the first job gets the error KTA04, with
    -- the INSERT statement that lists the job.
    if not public.issuance_is_audience(words ->> 'aud')
        or exists (select from public.credential_callers c where c.issuer = words ->> 'iss')
        and not exists (select from public.credential_callers c
                        where c.issuer = words ->> 'iss' and c.audience = words ->> 'aud') then
        raise exception 'the ID token is not made for this project'
            using errcode = 'KTA02',
            hint = 'The audience of the ID token is supabase-url, as one text; the list of callers has the same URL.';
    end if;
    perform public.issuance_check_times(claims, oldest);

    select string_agg(n.name, ', ') into missing
    from unnest('{jti,repository,repository_id,repository_owner_id,ref,event_name,runner_environment,run_id,run_attempt}'::text[]) n (name)
    where coalesce(words ->> n.name, '') = '' or length(words ->> n.name) > 512;
    if missing is not null then
        raise exception 'the ID token lacks claims, or has others in their place: %', missing using errcode = 'KTA04';
    end if;

    -- A comparison with a missing claim is null, and a row with such a comparison does not match.
    select c.*
    into caller
    from public.credential_callers c
    where c.service_name = service
      and c.issuer = words ->> 'iss'
      and c.audience = words ->> 'aud'
      and c.repository_id = words ->> 'repository_id'
      and public.issuance_differences(c, words) = ''
    order by array_position(levels, c.access) desc
    limit 1;
    if not found then
        -- The error shows names of columns, but no values. The error shows only columns of rows for the job's own
        -- repository.
        select string_agg(distinct public.issuance_differences(c, words), '; ') into differs
        from public.credential_callers c
        where c.service_name = service and c.issuer = words ->> 'iss' and c.audience = words ->> 'aud'
          and c.repository_id = words ->> 'repository_id';
        raise exception 'the list of callers has no row for this job%', coalesce(' (its repository has one that differs in: ' || differs || ')', '')
            using errcode = 'KTA04',
            detail = coalesce(public.issuance_caller_insert(service, words, wanted), ''),
            hint = case
                when public.issuance_caller_insert(service, words, wanted) is null
                    then 'Jobs of this event or ref cannot be listed: people without write access can cause them.'
                else 'If this job may have access, run the statement of the detail in the SQL editor of the project.'
            end;
    end if;
    if array_position(levels, caller.access) < array_position(levels, wanted) then
        raise exception 'the list of callers gives this job the access "%", and this call needs "%"', caller.access, wanted
            using errcode = 'KTA05',
            detail = format('update public.credential_callers set access = %L where id = %s;', wanted, caller.id),
            hint = 'If this job may have more access, run the statement of the detail in the SQL editor of the project.';
    end if;
    return caller;
end
$$;

-- Checks whether a slot other than "service" has issued a token with this app key. If the list of callers does not
-- allow the job with these claims to issue for a slot that has issued with this app key, raises KTA05. While one slot
-- has a valid token or a lease of an app key, the database grants no lease of this app key to another slot. So, without
-- issuance_check_app_key, a job could block the callers of a slot for which the job may not issue.
create or replace function public.issuance_check_app_key(service text, app_key_id text, claims jsonb) returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    other text;
begin
    for other in
        select l.service_name from public.credential_leases l
        where l.app_key_id = issuance_check_app_key.app_key_id and l.service_name <> service
    loop
        begin
            perform public.issuance_caller(other, claims, 'issue', 120);
        exception
            when sqlstate 'KTA04' or sqlstate 'KTA05' then
                raise exception 'this app key belongs to another slot, for which this job may not issue'
                    using errcode = 'KTA05',
                    hint = 'List this job with the access issue for each slot of the app key, or use one slot for it.';
        end;
    end loop;
end
$$;

-- Compares a row of the list of callers with claims. Returns one text with the names of the columns that do not match
-- the claims. If all columns match the claims, the returned text is empty.
create or replace function public.issuance_differences(caller public.credential_callers, words jsonb) returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    return concat_ws(
        ', ',
        case when (caller.repository_owner_id = words ->> 'repository_owner_id') is not true then 'repository_owner_id' end,
        case when (caller.ref = words ->> 'ref') is not true then 'ref' end,
        case when (words ->> 'event_name' = any (caller.events)) is not true then 'events' end,
        case when (caller.runner_environment = words ->> 'runner_environment') is not true then 'runner_environment' end,
        case when caller.environment is not null and (caller.environment = words ->> 'environment') is not true
            then 'environment' end,
        case when caller.workflow is not null
            and ((words ->> 'repository') || '/' || caller.workflow || '@' || (words ->> 'ref') = words ->> 'workflow_ref') is not true
            then 'workflow' end,
        case when caller.job_workflow_ref is not null and (caller.job_workflow_ref = words ->> 'job_workflow_ref') is not true
            then 'job_workflow_ref' end,
        case when caller.valid_until <= clock_timestamp() then 'valid_until' end);
end
$$;

-- The argument "holder" is the id of an attempt. If the run that the claims name did not begin this attempt, raises
-- KTA06.
create or replace function public.issuance_check_attempt(service text, holder uuid, claims jsonb) returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from public.credential_attempts a
        where a.holder = issuance_check_attempt.holder and a.service_name = service and a.issuer = claims ->> 'iss'
          and a.repository_id = claims ->> 'repository_id'
          and a.run_id = claims ->> 'run_id' and a.run_attempt = claims ->> 'run_attempt') then
        raise exception 'this run has not begun that attempt' using errcode = 'KTA06';
    end if;
end
$$;

-- Records that a run used its ID token to begin an attempt. The argument "holder" is the id of the attempt. Raises
-- KTA06 if the ID token was used to begin another attempt. Raises KTA06 also if another run, or a caller with the
-- service key, has begun the attempt with this id.
create or replace function public.issuance_claim_attempt(service text, holder uuid, claims jsonb) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    t timestamptz := clock_timestamp();
begin
    -- The lock prevents two runs from beginning with the same holder id at the same time.
    perform pg_advisory_xact_lock(hashtextextended('kis-token-attempt:' || issuance_claim_attempt.holder, 0));
    -- "skip locked" leaves out rows that another caller is deleting at this moment.
    delete from public.credential_attempts a
    where (a.issuer, a.jti) in (
        select e.issuer, e.jti from public.credential_attempts e where e.expires_at < t limit 100 for update skip locked);

    if exists (select from public.credential_leases l where l.service_name = service and l.holder = issuance_claim_attempt.holder)
        or exists (select from public.credential_attempts a where a.holder = issuance_claim_attempt.holder) then
        perform public.issuance_check_attempt(service, holder, claims);
    end if;
    insert into public.credential_attempts
        (issuer, jti, holder, service_name, repository_id, run_id, run_attempt, expires_at)
    values
        (claims ->> 'iss', claims ->> 'jti', holder, service, claims ->> 'repository_id', claims ->> 'run_id',
         claims ->> 'run_attempt', greatest(to_timestamp((claims ->> 'exp')::float8), t) + interval '1 hour')
    on conflict do nothing;
    if not exists (
        select from public.credential_attempts a
        where a.issuer = claims ->> 'iss' and a.jti = claims ->> 'jti'
          and a.holder = issuance_claim_attempt.holder and a.service_name = service) then
        raise exception 'the ID token has begun another attempt'
            using errcode = 'KTA06', hint = 'Ask GitHub for a new ID token for each attempt.';
    end if;
end
$$;

-- The functions for jobs ----------------------------------------------------------------------------------------------

create or replace function public.keyless_read(service text, id_token text default null) returns jsonb
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    claims jsonb := public.issuance_id_token_claims(id_token);
    caller public.credential_callers := public.issuance_caller(service, claims, 'token', 330);
begin
    return jsonb_build_object(
        'rows', coalesce((
            select jsonb_agg(jsonb_build_object(
                'credential_type', c.credential_type, 'credential_value', c.credential_value,
                'expires_at', c.expires_at, 'version', c.version) order by c.credential_type)
            from public.api_credentials c
            where c.service_name = service and c.is_active
              and (c.credential_type in ('access_token', 'rejected_tokens')
                   or caller.access in ('keys', 'issue') and c.credential_type in ('app_key', 'app_secret'))), '[]'),
        'access', caller.access,
        -- The names (kid) of an issuer's keys are public. A job compares the names of the stored keys with the names of
        -- the keys that the issuer publishes.
        'issuer', caller.issuer,
        'issuer_keys', (
            select jsonb_agg(k.kid order by k.kid) from public.credential_issuer_keys k where k.issuer = caller.issuer),
        'schema_version', 2,  -- as in 005_check.sql
        'server_now', clock_timestamp()
    );
end
$$;

comment on function public.keyless_read(text, text) is
    'Returns the active rows of the slot that a GitHub job may read with its ID token. Every job of the list of callers may read access_token and rejected_tokens. If the access of the job is "keys" or "issue", the job may also read app_key and app_secret. The result has the members rows (credential_type, credential_value, expires_at, version), access (token, keys or issue, from the list of callers), issuer, issuer_keys (the names of the issuer''s stored keys), schema_version and server_now.';

create or replace function public.keyless_begin(
    service           text,
    holder            uuid,
    app_key_id        text,
    credential_id     text,
    min_remaining     interval,
    rejected_version  bigint default null,
    rejected_token_id text default null,
    keys_version      bigint default null,
    id_token          text default null
) returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    claims jsonb := public.issuance_id_token_claims(id_token);
    caller public.credential_callers := public.issuance_caller(service, claims, 'issue', 120);
begin
    if holder is null then
        raise exception 'a holder is needed' using errcode = '22023';
    end if;
    perform public.issuance_check_app_key(caller.service_name, app_key_id, claims);
    perform public.issuance_claim_attempt(caller.service_name, holder, claims);
    -- The label in the log is made from the signed claims, so the caller cannot choose the label.
    return public.begin_issuance(
        caller.service_name, holder,
        format('%s run %s attempt %s', claims ->> 'repository', claims ->> 'run_id', claims ->> 'run_attempt'),
        app_key_id, credential_id, min_remaining, rejected_version, rejected_token_id, keys_version);
end
$$;

comment on function public.keyless_begin(text, uuid, text, text, interval, bigint, text, bigint, text) is
    'Asks for the lease for a GitHub job that has an ID token instead of a key. The answer is the same as that of begin_issuance. The job''s ID token is at most 120 s old. The label is made from the claims of the ID token. An ID token can begin only one attempt to issue. To repeat a call whose answer was lost, the job calls again with the same holder, and with the same ID token or a newer one of the same run.';

create or replace function public.keyless_commit(
    service    text,
    holder     uuid,
    fence      bigint,
    value      text,
    expires_at timestamptz,
    issued_at  timestamptz,
    token_id   text,
    rejected   boolean default false,
    id_token   text default null
) returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    claims jsonb := public.issuance_id_token_claims(id_token);
    caller public.credential_callers := public.issuance_caller(service, claims, 'issue', 330);
begin
    perform public.issuance_check_attempt(caller.service_name, holder, claims);
    return public.commit_issuance(caller.service_name, holder, fence, value, expires_at, issued_at, token_id, rejected);
end
$$;

comment on function public.keyless_commit(text, uuid, bigint, text, timestamptz, timestamptz, text, boolean, text) is
    'commit_issuance for a GitHub job. Its ID token must come from the same repository, run and run attempt as the ID token of keyless_begin.';

create or replace function public.keyless_abort(
    service               text,
    holder                uuid,
    fence                 bigint,
    cooldown              interval,
    error_code            text,
    refused_credential_id text default null,
    id_token              text default null
) returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    claims jsonb := public.issuance_id_token_claims(id_token);
    caller public.credential_callers := public.issuance_caller(service, claims, 'issue', 330);
begin
    perform public.issuance_check_attempt(caller.service_name, holder, claims);
    return public.abort_issuance(caller.service_name, holder, fence, cooldown, error_code, refused_credential_id);
end
$$;

comment on function public.keyless_abort(text, uuid, bigint, interval, text, text, text) is
    'abort_issuance for a GitHub job. Its ID token must come from the same repository, run and run attempt as the ID token of keyless_begin.';

-- Returns the list of callers to a client with the service key. kis-token status and kis-token check show this list.
create or replace function public.credential_callers_status(service text default null) returns jsonb
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object(
        'server_now', clock_timestamp(),
        'callers', coalesce((
            select jsonb_agg(to_jsonb(c) order by c.service_name, c.id) from public.credential_callers c
            where credential_callers_status.service is null or c.service_name = credential_callers_status.service), '[]'),
        'keys', coalesce((
            select jsonb_agg(jsonb_build_object(
                'issuer', k.issuer, 'kid', k.kid, 'bits', length(k.modulus) * 8,
                'modulus_sha256', encode(sha256(k.modulus), 'hex'), 'added_at', k.added_at
            ) order by k.issuer, k.added_at, k.kid)
            from public.credential_issuer_keys k), '[]'),
        'schema_version', 2  -- as in 005_check.sql
    );
end
$$;

comment on function public.credential_callers_status(text) is
    'Returns the list of callers, of one slot or of all slots, with all columns. Also returns the keys of the issuers: issuer, kid, bits, modulus_sha256 (of the bytes of n, in hex) and added_at.';

-- Access -------------------------------------------------------------------------------------------------------------

alter table public.credential_callers enable row level security;
alter table public.credential_attempts enable row level security;
drop policy if exists credential_callers_nobody on public.credential_callers;
create policy credential_callers_nobody on public.credential_callers for all to public using (false) with check (false);
drop policy if exists credential_attempts_nobody on public.credential_attempts;
create policy credential_attempts_nobody on public.credential_attempts for all to public using (false) with check (false);

-- Only the database's owner changes the list of callers, in the SQL editor. No key of the API can change the list of
-- callers, not even the key of service_role.
revoke all on table public.credential_callers, public.credential_attempts
    from public, anon, authenticated, service_role;
revoke all on sequence public.credential_callers_id_seq from public, anon, authenticated, service_role;
revoke all on function
    public.issuance_is_audience(text),
    public.issuance_is_ref(text),
    public.issuance_events(),
    public.issuance_caller_insert(text, jsonb, text),
    public.issuance_check_times(jsonb, integer),
    public.issuance_caller(text, jsonb, text, integer),
    public.issuance_differences(public.credential_callers, jsonb),
    public.issuance_check_app_key(text, text, jsonb),
    public.issuance_check_attempt(text, uuid, jsonb),
    public.issuance_claim_attempt(text, uuid, jsonb),
    public.keyless_read(text, text),
    public.keyless_begin(text, uuid, text, text, interval, bigint, text, bigint, text),
    public.keyless_commit(text, uuid, bigint, text, timestamptz, timestamptz, text, boolean, text),
    public.keyless_abort(text, uuid, bigint, interval, text, text, text),
    public.credential_callers_status(text)
from public, anon, authenticated, service_role;

grant usage on schema public to anon, authenticated;
grant execute on function
    public.keyless_read(text, text),
    public.keyless_begin(text, uuid, text, text, interval, bigint, text, bigint, text),
    public.keyless_commit(text, uuid, bigint, text, timestamptz, timestamptz, text, boolean, text),
    public.keyless_abort(text, uuid, bigint, interval, text, text, text)
to anon, authenticated;
grant execute on function public.credential_callers_status(text) to service_role;

notify pgrst, 'reload schema';

commit;
