# The options of NixOS that the module sets or reads, with nothing behind them.
# An option that is not here does not exist: a misspelt one fails the evaluation.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  option =
    type: default:
    mkOption { inherit type default; };
  required = type: mkOption { inherit type; };
  package = name: {
    type = "derivation";
    inherit name;
    outPath = "/nix/store/00000000000000000000000000000000-${name}";
  };
in
{
  options = {
    assertions = option (types.listOf types.raw) [ ];
    boot.isContainer = option types.bool false;
    environment.systemPackages = option (types.listOf types.package) [ ];
    networking.hostName = required types.str;
    networking.proxy.envVars = option (types.attrsOf types.str) { };
    nix.package = option types.package (package "nix");
    system.switch.enable = option types.bool true;
    systemd.package = option types.package (package "systemd");
    systemd.services = mkOption {
      default = { };
      type = types.attrsOf (
        types.submodule {
          options = {
            description = required types.str;
            wantedBy = option (types.listOf types.str) [ ];
            after = option (types.listOf types.str) [ ];
            path = option (types.listOf types.package) [ ];
            environment = option (types.attrsOf types.str) { };
            restartIfChanged = option types.bool true;
            stopIfChanged = option types.bool true;
            unitConfig = option (types.attrsOf types.raw) { };
            serviceConfig = option (types.attrsOf types.raw) { };
          };
        }
      );
    };
  };
}
