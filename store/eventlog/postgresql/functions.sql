-- The only ways for a member of the farm to write. Each is one statement, so that a member that freezes or is cut
-- off holds no lock. All run as the owner of the tables and see nothing but them. Errors that dcd expects:
--   DC001 the epoch is over              DC005 the role is no member of the farm
--   DC002 the build has changed          DC006 there is no such build, or it has ended
--   DC003 the idempotency key is taken   DC007 the member lacks labels
--   DC004 the event is not allowed       DC008 the database may lose what it has acknowledged
--                                        DC009 the member takes no more builds

-- A document as JSON. PostgreSQL has no text with NUL and refuses the whole document; no path that is read leads
-- to such a text.
CREATE OR REPLACE FUNCTION dcd_json(document text) RETURNS json LANGUAGE sql IMMUTABLE
RETURN replace(document, '\u0000', '\ufffd')::json;

-- Whether a document has a form without parts; NULL for another form. The planner inlines it: with a call
-- for each number and text, checks would take a third of an append.
CREATE OR REPLACE FUNCTION dcd_fits_plain(document jsonb, form jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE
RETURN CASE
  WHEN form->>'type' IN ('string', 'number', 'boolean', 'null') THEN jsonb_typeof(document) = form->>'type'
  WHEN form->>'type' = 'integer' THEN jsonb_typeof(document) = 'number' AND document::text ~ '^-?[0-9]{1,18}$'
  WHEN form = '{}' THEN true
END;

-- Whether a document has a form: a JSON Schema, as far as msgspec writes them for the classes of events.
CREATE OR REPLACE FUNCTION dcd_fits(document jsonb, form jsonb) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
  kind text := jsonb_typeof(document);
BEGIN
  IF form ? '$ref' THEN
    SELECT f.form INTO STRICT dcd_fits.form FROM forms f WHERE f.name = dcd_fits.form->>'$ref';
  END IF;
  IF form ? 'anyOf' THEN
    RETURN EXISTS (SELECT FROM jsonb_array_elements(form->'anyOf') a(choice)
      WHERE coalesce(dcd_fits_plain(document, choice), dcd_fits(document, choice)));
  END IF;
  RETURN CASE form->>'type'
    WHEN 'object' THEN kind = 'object'
      AND document ?& ARRAY(SELECT jsonb_array_elements_text(form->'required'))
      AND NOT EXISTS (
        SELECT FROM jsonb_each(document) m(name, member),
          LATERAL (SELECT coalesce(form->'properties'->name, form->'additionalProperties', '{}')) s(sub)
        WHERE NOT coalesce(dcd_fits_plain(member, sub), dcd_fits(member, sub)))
    WHEN 'array' THEN kind = 'array'
      AND jsonb_array_length(document) >= coalesce((form->>'minItems')::int, 0)
      AND jsonb_array_length(document) <= coalesce((form->>'maxItems')::int, jsonb_array_length(document))
      AND NOT EXISTS (
        SELECT FROM jsonb_array_elements(document) WITH ORDINALITY i(item, number),
          LATERAL (SELECT coalesce(form->'prefixItems'->(number - 1)::int, form->'items', '{}')) s(sub)
        WHERE NOT coalesce(dcd_fits_plain(item, sub), dcd_fits(item, sub)))
    ELSE coalesce(dcd_fits_plain(document, form), true)
  END;
END $$;

-- Refuses events that members could not read, before anything is locked.
CREATE OR REPLACE FUNCTION dcd_check(build_id text, new_events json) RETURNS void LANGUAGE plpgsql STABLE AS $$
DECLARE
  event record; wrong text;
BEGIN
  IF build_id !~ '^[a-z0-9][a-z0-9-]{0,62}$' THEN
    RAISE EXCEPTION 'no build has such an id' USING ERRCODE = 'DC004';
  END IF;
  FOR event IN SELECT * FROM json_to_recordset(new_events)
      AS x(type text, version bigint, "time" text, actor text, data text) LOOP
    wrong := CASE
      WHEN NOT EXISTS (SELECT FROM forms f WHERE f.name = event.type AND f.version = event.version)
        THEN 'this type is not known'
      WHEN octet_length(event.data) > 16777216 THEN 'it has more than 16 MiB'
      WHEN octet_length(event.actor) > 4096 THEN 'its actor has more than 4 KiB'
      WHEN event.time !~ '^[0-9]{4}-' THEN 'no member could read such a year'
      WHEN event.time IS DISTINCT FROM
          to_char(event.time::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        THEN 'this is not how dcd writes times'
      WHEN NOT dcd_fits(dcd_json(event.actor)::jsonb, '{"$ref": "Actor"}') OR EXISTS (
          SELECT FROM jsonb_each(dcd_json(event.actor)::jsonb) a WHERE jsonb_typeof(a.value) IN ('object', 'array'))
        THEN 'its actor is malformed'
      WHEN NOT dcd_fits(dcd_json(event.data)::jsonb, jsonb_build_object('$ref', event.type))
        THEN 'its data is malformed'
      WHEN event.type IN ('BuildSubmitted', 'BuildResumed') AND (
          json_array_length(dcd_json(event.data)->'requires') > 1000
          OR octet_length(dcd_json(event.data)->>'requires') > 65536)
        THEN 'it requires too many labels'
      WHEN event.type = 'BuildSubmitted' AND octet_length(dcd_json(event.data)->>'name') > 4096
        THEN 'its name has more than 4 KiB'
      WHEN event.type = 'MoveRequested' AND coalesce(dcd_json(event.data)->>'to', '')
          !~ '^([a-z0-9]([a-z0-9.-]{0,57}[a-z0-9])?)?$'
        THEN 'no member has such a name'
    END;
    IF wrong IS NOT NULL THEN
      RAISE EXCEPTION 'no member could read % of build %: %', event.type, build_id, wrong USING ERRCODE = 'DC004';
    END IF;
  END LOOP;
END $$;

-- Locks the head of the log until the end of the transaction: positions have no gaps, and their order is
-- that of the commits. Whatever is read afterwards is the last that was committed.
CREATE OR REPLACE FUNCTION dcd_lock() RETURNS void LANGUAGE plpgsql
SET search_path = dcd, pg_temp AS $$
BEGIN
  IF current_setting('synchronous_commit') = 'off' OR current_setting('fsync') = 'off'
     OR current_setting('full_page_writes') = 'off' THEN
    RAISE EXCEPTION 'synchronous_commit, fsync or full_page_writes is off' USING ERRCODE = 'DC008';
  END IF;
  PERFORM FROM head FOR UPDATE;
END $$;

-- Appends events to a build, updates the projections, and returns the position of the first event.
-- events: [{type, version, time, actor, data, hash}]; build_row: as in builds, without positions; keys: ["key"].
CREATE OR REPLACE FUNCTION dcd_write(
  build_id text, expected bigint, new_events json, build_row json, keys json
) RETURNS bigint LANGUAGE plpgsql SET search_path = dcd, pg_temp AS $$
DECLARE
  last_sequence bigint; last_hash text; first_position bigint; next_position bigint;
  event record; old_row builds; new_row builds; taken text; types text[] := '{}'; last_time text;
  submitted record; said json;
BEGIN
  SELECT e.sequence, e.hash INTO last_sequence, last_hash FROM events e
    WHERE e.build = build_id ORDER BY e.sequence DESC LIMIT 1;
  last_sequence := coalesce(last_sequence, 0);
  last_hash := coalesce(last_hash, '');
  IF last_sequence <> expected THEN
    RAISE EXCEPTION '%', last_sequence USING ERRCODE = 'DC002';
  END IF;
  SELECT coalesce(max(e.position), 0) + 1 INTO first_position FROM events e;
  next_position := first_position;
  FOR event IN SELECT * FROM json_to_recordset(new_events)
      AS x(type text, version bigint, "time" text, actor text, data text, hash text) LOOP
    last_sequence := last_sequence + 1;
    IF (last_sequence = 1) <> (event.type = 'BuildSubmitted') THEN
      RAISE EXCEPTION 'a build begins with its submission' USING ERRCODE = 'DC004';
    END IF;
    -- As statemachine.codec.event_hash: sha256 of the canonical JSON of these, in this order.
    last_hash := encode(sha256(convert_to(concat('[', concat_ws(',',
      to_json(last_hash), to_json(build_id), last_sequence, to_json(event.type), event.version,
      to_json(event.time), to_json(event.actor), to_json(event.data)), ']'), 'UTF8')), 'hex');
    IF event.hash IS DISTINCT FROM last_hash THEN
      RAISE EXCEPTION 'the hash of event % of build % is wrong', last_sequence, build_id USING ERRCODE = 'DC004';
    END IF;
    INSERT INTO events (position, build, sequence, type, version, "time", actor, data, hash)
      VALUES (next_position, build_id, last_sequence, event.type, event.version, event.time, event.actor,
              event.data, event.hash);
    next_position := next_position + 1;
    IF last_sequence = 1 THEN
      submitted := event;
    END IF;
    types := types || event.type;
    last_time := event.time;
    IF event.type = 'BuildSubmitted'
       OR (event.type = 'BuildResumed' AND json_typeof(dcd_json(event.data)->'plan') = 'object') THEN
      INSERT INTO placements (build, epoch, host, requires)
        VALUES (build_id, 0, '', ARRAY(SELECT json_array_elements_text(dcd_json(event.data)->'requires')))
        ON CONFLICT (build) DO UPDATE SET requires = excluded.requires;
    ELSIF event.type = 'MoveRequested' THEN
      UPDATE placements p SET moves_to = dcd_json(event.data)->>'to' WHERE p.build = build_id;
    END IF;
  END LOOP;
  IF next_position = first_position THEN
    RAISE EXCEPTION 'no events' USING ERRCODE = 'DC004';
  END IF;
  -- Who takes a build has all its events in memory. Small ones add up slowly: not each has to look. What ends or
  -- removes a build is taken all the same: nobody could end it otherwise.
  IF (last_sequence % 64 < next_position - first_position OR octet_length(new_events::text) > 1048576)
     AND (octet_length(new_events::text) > 65536 OR NOT types <@ ARRAY['CancelRequested', 'BuildCancelled',
       'BuildFailed', 'BuildRemoved', 'CheckpointInterrupted', 'CheckpointFailed'])
     AND (SELECT sum(octet_length(e.data)) FROM events e WHERE e.build = build_id) > 268435456 THEN
    RAISE EXCEPTION 'the events of build % have more than 256 MiB', build_id USING ERRCODE = 'DC004';
  END IF;
  new_row := json_populate_record(NULL::builds, build_row);
  SELECT * INTO old_row FROM builds b WHERE b.id = build_id;
  -- The row decides whether a build can be taken and what is kept for it: only these events end or remove one.
  -- All members read it in lists: it is whole, whatever the caller says.
  IF new_row.id IS DISTINCT FROM build_id OR new_row.sequence IS DISTINCT FROM last_sequence
     OR new_row.removed NOT IN (0, 1) OR octet_length(new_row::text) > 1048576 OR octet_length(keys::text) > 1048576
     OR NOT EXISTS (SELECT FROM forms f WHERE f.name = 'Lifecycle' AND f.form->'enum' ? new_row.state)
     OR (new_row.state = 'completed' AND old_row.state IS DISTINCT FROM 'completed' AND 'BuildCompleted' <> ALL (types))
     OR (new_row.state = 'cancelled' AND old_row.state IS DISTINCT FROM 'cancelled' AND 'BuildCancelled' <> ALL (types))
     OR (new_row.removed = 1 AND old_row.removed IS DISTINCT FROM 1 AND 'BuildRemoved' <> ALL (types)) THEN
    RAISE EXCEPTION 'the row of build % is not that of its events', build_id USING ERRCODE = 'DC004';
  END IF;
  new_row.position := next_position - 1;
  new_row.updated_at := last_time;
  new_row.submitted_position := first_position;
  IF expected > 0 THEN
    -- The others say what was submitted.
    UPDATE builds b SET state = new_row.state, reason = new_row.reason, updated_at = new_row.updated_at,
        pause_before = new_row.pause_before, completed_checkpoints = new_row.completed_checkpoints,
        total_checkpoints = new_row.total_checkpoints, removed = new_row.removed, position = new_row.position,
        sequence = new_row.sequence
      WHERE b.id = build_id;
  ELSE
    said := dcd_json(submitted.data);
    new_row.name := said->>'name';
    new_row.priority := coalesce((said->>'priority')::bigint, 0);
    IF new_row.priority NOT BETWEEN -1000 AND 1000 THEN
      RAISE EXCEPTION 'a priority is between -1000 and 1000' USING ERRCODE = 'DC004';
    END IF;
    new_row.actor := submitted.actor;
    new_row.submitted_at := submitted.time;
    SELECT b.id INTO taken FROM builds b WHERE b.idempotency_key = new_row.idempotency_key;
    IF taken IS NOT NULL THEN
      RAISE EXCEPTION '%', taken USING ERRCODE = 'DC003';
    END IF;
    INSERT INTO builds SELECT new_row.*;
  END IF;
  IF new_row.removed = 1 THEN
    DELETE FROM layer_keys k WHERE k.build = build_id;
  ELSE
    INSERT INTO layer_keys (key, build) SELECT key, build_id FROM json_array_elements_text(keys) AS k(key)
      ON CONFLICT DO NOTHING;
  END IF;
  RETURN first_position;
END $$;

-- Ends a transaction: moves the head, once for all events, since its old versions cost all that wait for it, and
-- wakes the other members.
CREATE OR REPLACE FUNCTION dcd_end() RETURNS void LANGUAGE plpgsql SET search_path = dcd, pg_temp AS $$
BEGIN
  UPDATE head SET position = (SELECT coalesce(max(e.position), 0) FROM events e);
  PERFORM pg_notify('dcd_events', '');
END $$;

-- Appends to a build under the lock; facts of a running build only in the epoch in which the caller owns it.
CREATE OR REPLACE FUNCTION dcd_fenced(
  build_id text, epoch bigint, expected bigint, new_events json, build_row json, keys json
) RETURNS bigint LANGUAGE plpgsql SET search_path = dcd, pg_temp AS $$
DECLARE
  owner placements;
BEGIN
  IF dcd_fenced.epoch IS NULL THEN
    IF EXISTS (SELECT FROM json_array_elements(new_events) e JOIN facts f ON f.type = e->>'type') THEN
      RAISE EXCEPTION 'facts of build % need an epoch', build_id USING ERRCODE = 'DC004';
    END IF;
  ELSE
    SELECT * INTO owner FROM placements p WHERE p.build = build_id;
    IF owner.epoch IS DISTINCT FROM dcd_fenced.epoch OR NOT EXISTS (
        SELECT FROM members m WHERE m.role = session_user AND m.host = owner.host) THEN
      RAISE EXCEPTION '% holds it in epoch %', owner.host, owner.epoch USING ERRCODE = 'DC001';
    END IF;
    IF EXISTS (SELECT FROM json_array_elements(new_events) e WHERE e->>'type' = 'BuildPlaced') THEN
      RAISE EXCEPTION 'only dcd_take places builds' USING ERRCODE = 'DC004';
    END IF;
  END IF;
  RETURN dcd_write(build_id, expected, new_events, build_row, keys);
END $$;

-- Appends for many callers in one transaction. requests: an array of arrays of {build, epoch, expected, events,
-- row, keys}; what is in an inner array is appended together or not at all. Returns for each the positions of
-- the first events, or the error.
DROP FUNCTION IF EXISTS dcd_append(text, bigint, bigint, json, json, json);
CREATE OR REPLACE FUNCTION dcd_append_all(requests json) RETURNS json
LANGUAGE plpgsql SECURITY DEFINER SET search_path = dcd, pg_temp AS $$
DECLARE
  request json; part json; positions bigint[]; answers json[] := '{}';
BEGIN
  PERFORM dcd_check(p->>'build', p->'events') FROM json_array_elements(requests) r, json_array_elements(r) p;
  PERFORM dcd_lock();
  FOR request IN SELECT * FROM json_array_elements(requests) LOOP
    BEGIN
      positions := '{}';
      FOR part IN SELECT * FROM json_array_elements(request) LOOP
        positions := positions || dcd_fenced(part->>'build', (part->>'epoch')::bigint,
          (part->>'expected')::bigint, part->'events', part->'row', part->'keys');
      END LOOP;
      answers := answers || json_build_object('positions', positions);
    EXCEPTION WHEN SQLSTATE 'DC001' OR SQLSTATE 'DC002' OR SQLSTATE 'DC003' OR SQLSTATE 'DC004' THEN
      answers := answers || json_build_object('error', SQLSTATE, 'why', SQLERRM, 'build', part->>'build');
    END;
  END LOOP;
  PERFORM dcd_end();
  RETURN array_to_json(answers);
END $$;

-- Makes the calling member the owner of a build: the next epoch, and its event BuildPlaced, which the caller has
-- hashed. Returns the position of the event. A label `tool:*` of a member stands for all that begin with `tool:`;
-- each has `host:` with its name, and nobody grants `dcd:`, the code of checkpoints: any code drives a build rightly.
CREATE OR REPLACE FUNCTION dcd_take(build_id text, expected bigint, placed json, build_row json) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = dcd, pg_temp AS $$
DECLARE
  me members; owner placements; last_sequence bigint; said json; lacking text; first_position bigint;
BEGIN
  PERFORM dcd_check(build_id, placed), dcd_lock();
  SELECT * INTO me FROM members m WHERE m.role = session_user;
  IF NOT FOUND THEN
    RAISE EXCEPTION '% is no member of the farm', session_user USING ERRCODE = 'DC005';
  END IF;
  SELECT b.sequence INTO last_sequence FROM builds b
    WHERE b.id = build_id AND b.state NOT IN ('completed', 'cancelled');
  IF NOT FOUND THEN
    RAISE EXCEPTION 'build % has ended, or does not exist', build_id USING ERRCODE = 'DC006';
  END IF;
  IF last_sequence <> expected THEN
    RAISE EXCEPTION '%', last_sequence USING ERRCODE = 'DC002';
  END IF;
  SELECT * INTO owner FROM placements p WHERE p.build = build_id;
  IF me.draining AND owner.host <> me.host THEN
    RAISE EXCEPTION '% takes no more builds', me.host USING ERRCODE = 'DC009';
  END IF;
  SELECT string_agg(r, ' ') INTO lacking FROM unnest(owner.requires) r WHERE NOT EXISTS (
    SELECT FROM unnest(me.labels) l WHERE l = r OR (l LIKE '%:*' AND starts_with(r, left(l, -1)))) AND r <> 'host:' || me.host
    AND NOT starts_with(r, 'dcd:');
  IF lacking IS NOT NULL THEN
    RAISE EXCEPTION '%', lacking USING ERRCODE = 'DC007';
  END IF;
  said := (placed->0->>'data')::json;
  IF json_array_length(placed) <> 1 OR placed->0->>'type' IS DISTINCT FROM 'BuildPlaced'
     OR said->>'host' IS DISTINCT FROM me.host OR (said->>'epoch')::bigint IS DISTINCT FROM owner.epoch + 1 THEN
    RAISE EXCEPTION 'the event does not say that % takes build % in epoch %', me.host, build_id, owner.epoch + 1
      USING ERRCODE = 'DC004';
  END IF;
  UPDATE placements p SET epoch = owner.epoch + 1, host = me.host, moves_to = NULL WHERE p.build = build_id;
  first_position := dcd_write(build_id, expected, placed, build_row, '[]');
  PERFORM dcd_end();
  RETURN first_position;
END $$;

-- Says that the calling member lives: by the clock of the database. `unbroken_since` is when its heartbeats began
-- to follow each other within gap_seconds: one whose own were broken has no right to call others lost. `clock` is
-- the member's, in seconds since 1970: people see how wrong it is, and nothing is decided by it. All members read
-- what is said here every few seconds, so it is short, and has the form that they expect.
DROP FUNCTION IF EXISTS dcd_heartbeat(double precision, text[], text);
CREATE OR REPLACE FUNCTION dcd_heartbeat(
  gap_seconds double precision, labels text[], version text, clock double precision
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = dcd, pg_temp AS $$
BEGIN
  IF array_ndims(labels) > 1 OR array_position(labels, NULL) IS NOT NULL OR cardinality(labels) > 10000
     OR octet_length(labels::text) > 1048576 OR octet_length(version) > 100 OR NOT abs(clock) < 1e12
     OR EXISTS (SELECT FROM unnest(labels) l WHERE l ~ '^slots:' AND l !~ '^slots:[0-9]{1,6}$') THEN
    RAISE EXCEPTION 'no member could read what % says of itself', session_user USING ERRCODE = 'DC004';
  END IF;
  UPDATE members m SET announced = dcd_heartbeat.labels, version = dcd_heartbeat.version, seen_at = now(),
      clock_ahead_seconds = dcd_heartbeat.clock - extract(epoch FROM now()),
      unbroken_since = CASE WHEN m.seen_at > now() - make_interval(secs => gap_seconds)
                            THEN m.unbroken_since ELSE now() END
    WHERE m.role = session_user;
  IF NOT FOUND THEN
    RAISE EXCEPTION '% is no member of the farm', session_user USING ERRCODE = 'DC005';
  END IF;
END $$;

-- Lets a member take no more builds, or take them again.
CREATE OR REPLACE FUNCTION dcd_drain(of_host text, draining boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = dcd, pg_temp AS $$
BEGIN
  UPDATE members m SET draining = dcd_drain.draining WHERE m.host = of_host;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no member %', of_host USING ERRCODE = 'DC005';
  END IF;
END $$;

CREATE OR REPLACE FUNCTION dcd_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'events are never changed or removed' USING ERRCODE = 'DC004';
END $$;

CREATE OR REPLACE FUNCTION dcd_in_order() RETURNS trigger LANGUAGE plpgsql SET search_path = dcd, pg_temp AS $$
BEGIN
  IF NEW.position IS DISTINCT FROM (SELECT coalesce(max(e.position), 0) + 1 FROM events e)
     OR NEW.sequence IS DISTINCT FROM
        (SELECT coalesce(max(e.sequence), 0) + 1 FROM events e WHERE e.build = NEW.build) THEN
    RAISE EXCEPTION 'an event must be the next of the log and of its build' USING ERRCODE = 'DC004';
  END IF;
  RETURN NEW;
END $$;

-- ALWAYS: also with session_replication_role = replica.
CREATE OR REPLACE TRIGGER events_are_in_order BEFORE INSERT ON events
  FOR EACH ROW EXECUTE FUNCTION dcd_in_order();
CREATE OR REPLACE TRIGGER events_are_never_changed BEFORE UPDATE OR DELETE ON events
  FOR EACH ROW EXECUTE FUNCTION dcd_refuse();
CREATE OR REPLACE TRIGGER events_are_never_removed BEFORE TRUNCATE ON events
  FOR EACH STATEMENT EXECUTE FUNCTION dcd_refuse();
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_in_order;
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_never_changed;
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_never_removed;
