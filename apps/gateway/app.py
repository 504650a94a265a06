"""The gateway: HTTP and WebSocket to devices, and nothing that an actor should decide.

Bodies and answers are structs of `protocol`, as `application/msgpack` (agents) or JSON (people;
bytes as base64), by Content-Type and Accept. Errors are problem documents (`faults.Problem`) in
the same two forms. Ids in URLs are 32, chunk addresses 64 lower-case hex digits. "Bearer" is an
access token in `Authorization: Bearer`; a device that is not certified yet gets only the routes
marked (u). What is not yours is 404, like what does not exist.

    route                                           body -> answer
    POST   /auth/prelogin                           Prelogin -> Kdf
    POST   /auth/register                           Register -> Session
    POST   /auth/login                              Login -> LoggedIn
    POST   /auth/refresh                            Refresh -> Session
    POST   /auth/logout              bearer (u)     -> 204
    GET    /auth/keyring             bearer (u)     -> Keyring
    PUT    /auth/keyring             bearer         Keyring (rev = read + 1) -> Keyring; 409 stale
    GET    /auth/devices             bearer (u)     -> DeviceList
    PUT    /auth/devices/{id}        bearer (u:own) CertifyDevice -> DeviceList; 409 stale
    DELETE /auth/devices/{id}        bearer         -> 204, its sessions end
    GET    /spaces                   bearer         -> SpaceList
    GET    /conflicts                bearer         ?space=&state=&after=&limit= -> ConflictList
    PUT    /chunks/{H}               bearer         ?space=&upload=  raw bytes, streamed -> 204
    GET    /chunks/{H}               bearer         ?space=  -> raw bytes (Range, ETag)
    POST   /chunks                   bearer         ?space=&upload=  list[PackItem] -> PackStored
    POST   /chunks/missing           bearer         ?space=&upload=  AskMissing -> MissingChunks
    POST   /chunks/fetch             bearer         ?space=  FetchChunks -> FetchedChunks
    POST   /files/upload             bearer         UploadRequest -> UploadOpen
    GET    /files/upload/{id}        bearer         -> UploadOpen
    DELETE /files/upload/{id}        bearer         -> UploadClosed
    POST   /sync/commit              bearer         CommitRequest -> Committed
    GET    /sync/changes             bearer         ?space=&history=&after=&limit= -> ChangesPage
    POST   /sync/heartbeat           bearer         Heartbeat -> Heartbeaten
    GET    /files/                   bearer         ?space=&parent=&after=&limit= -> FileList
    GET    /files/{id}/download      bearer         ?space=&version= -> u32 length (big-endian),
                                                    sealed manifest, then the version's blobs in
                                                    order, a page followed by its chunks (Range)
    POST   /ws/ticket                bearer         -> Ticket
    WS     /ws/sync                  ?ticket= or bearer header; frames of messages/feed.py
    GET    /livez /readyz /startupz                 -> JSON
    GET    /schema                                  -> OpenAPI 3.1 of all this
"""
