# A systemd service as NixOS would write it: name of the options to lines of the
# file. NixOS adds more to PATH, and makes links instead of an [Install] section.
{ lib }:
service:
let
  inherit (builtins)
    attrNames
    concatMap
    isBool
    isList
    ;

  render =
    value:
    if isBool value then
      (if value then "true" else "false")
    else
      toString value;
  lines =
    name: value:
    if isList value then map (v: "${name}=${render v}") value else [ "${name}=${render value}" ];
  section =
    name: body:
    [ "[${name}]" ] ++ concatMap (key: lines key body.${key}) (attrNames body) ++ [ "" ];

  path = lib.concatStringsSep ":" (
    map (package: "${package}/bin") service.path ++ map (package: "${package}/sbin") service.path
  );
  environment = service.environment // {
    PATH = path;
  };
  unlessDefault = key: value: if value then { } else { ${key} = false; };
in
lib.concatStringsSep "\n" (
  section "Unit" (
    service.unitConfig
    // {
      Description = service.description;
    }
    // (if service.after == [ ] then { } else { After = service.after; })
  )
  ++ section "Service" (
    service.serviceConfig
    // {
      Environment = map (name: ''"${name}=${environment.${name}}"'') (attrNames environment);
    }
    // unlessDefault "X-RestartIfChanged" service.restartIfChanged
    // unlessDefault "X-StopIfChanged" service.stopIfChanged
  )
  ++ section "Install" { WantedBy = service.wantedBy; }
)
