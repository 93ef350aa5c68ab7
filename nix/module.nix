# The agent as a NixOS service.
#
# A switch is started by this very service, so the unit is written to survive
# every switch: it is not stopped, not restarted and not removed by one. A new
# version takes over when the agent itself decides to hand over.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) mkOption types;

  cfg = config.services.nixfleet-agent;
  json = pkgs.formats.json { };

  stateRoot = "/var/lib/";
  runtimeRoot = "/run/";
  socketDirectory = dirOf cfg.settings.socketPath;

  # An option left alone is left out: its default is the agent's own.
  orAgentDefault =
    type: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit description;
    };

  absolutePath = types.strMatching "/.+";
  duration = types.strMatching "([0-9]+([.][0-9]+)?(ns|us|ms|s|m|h))+";
in
{
  options.services.nixfleet-agent = {
    enable = lib.mkEnableOption "the agent that brings this host to a target closure and proves it";

    package = lib.mkPackageOption pkgs "nixfleet-agent" { };

    settings = mkOption {
      default = { };
      description = ''
        The agent's configuration, written as JSON. What is not listed here is
        passed on as it is; the agent refuses to start on a field it does not know.
      '';
      type = types.submodule {
        freeformType = json.type;
        options = {
          stateDir = mkOption {
            type = absolutePath;
            default = "/var/lib/nixfleet-agent";
            description = ''
              Directory, below /var/lib, of the database and of the results of
              switches. A host with an ephemeral root has to keep it: it holds
              what is owed to the control plane and the way back.
            '';
          };
          socketPath = mkOption {
            type = absolutePath;
            default = "/run/nixfleet-agent/agent.sock";
            description = "Unix socket, in a directory of its own below /run, of the local API.";
          };
          socketGroup = orAgentDefault types.str ''
            Group that may read over the socket beside root: status, events and
            history. What this host runs is changed by root alone.
          '';
          hostname = mkOption {
            type = types.str;
            default = config.networking.hostName;
            defaultText = lib.literalExpression "config.networking.hostName";
            description = "Name of this host in a fleet.";
          };
          soak = orAgentDefault duration ''
            How long a target has to stay healthy before it counts as converged,
            such as `10m`, for rollouts that do not say so themselves.
          '';
          policy =
            orAgentDefault
              (types.enum [
                "rollback-and-halt"
                "halt"
              ])
              ''
                What follows a failure: `rollback-and-halt` goes back to what ran
                before, `halt` leaves the running system and restores the boot default.
              '';
          criticalComponents =
            orAgentDefault
              (types.attrsOf (
                types.enum [
                  "defer"
                  "switch"
                  "ignore"
                ]
              ))
              ''
                What a difference in a component (`dbus`, `systemd`, `kernel`, `init`,
                or one of `extraComponents`) means: `defer` the update to the next
                reboot, `switch` live and say that a reboot is pending, or `ignore` it.
                Across a switch inhibitor NixOS itself refuses to switch; such an
                update is always deferred.
              '';
          extraComponents = orAgentDefault (types.listOf types.str) ''
            Further components: `initrd`, `kernel-params`, `firmware`, or a path in
            the closure.
          '';
          systemdIdentity =
            orAgentDefault
              (types.enum [
                "version"
                "path"
              ])
              ''
                Whether systemd counts as changed with its version, or with its store
                path, which a mass rebuild changes as well.
              '';
          deadlines = {
            realise = orAgentDefault duration "Longest time that fetching a closure may take.";
            switch = orAgentDefault duration "Longest time that a live switch may take.";
            boot = orAgentDefault duration "Longest time that setting the boot default may take.";
          };
          verify = {
            signatures = orAgentDefault (types.ints.between 0 16) ''
              Signatures by different trusted keys that every path of a target must
              have, also one that was in the store or was built here; 0 verifies
              nothing beyond what Nix does when it fetches a path.
            '';
            trustedKeys = orAgentDefault (types.listOf types.str) ''
              Public keys that count for this, as `NAME:BASE64`, instead of
              {option}`nix.settings.trusted-public-keys`.
            '';
          };
          logLevel =
            orAgentDefault
              (types.enum [
                "debug"
                "info"
                "warn"
                "error"
              ])
              "Least important kind of message that is logged.";
        };
      };
    };

    configFile = mkOption {
      type = types.path;
      readOnly = true;
      default = json.generate "nixfleet-agent.json" (
        lib.filterAttrsRecursive (_name: value: value != null) cfg.settings
      );
      defaultText = lib.literalMD "the file made of {option}`services.nixfleet-agent.settings`";
      description = "The configuration file that the service is started with.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = config.system.switch.enable;
        message = "services.nixfleet-agent: this system cannot be switched (system.switch.enable is false), so no agent can bring it anywhere.";
      }
      {
        assertion = !config.boot.isContainer;
        message = "services.nixfleet-agent: a container is switched and rebooted by its host; run the agent there.";
      }
      {
        assertion = lib.hasPrefix stateRoot cfg.settings.stateDir;
        message = "services.nixfleet-agent: settings.stateDir is ${cfg.settings.stateDir}, but systemd makes state directories below ${stateRoot}.";
      }
      {
        assertion = lib.hasPrefix runtimeRoot socketDirectory;
        message = "services.nixfleet-agent: settings.socketPath is ${cfg.settings.socketPath}, but its directory has to be one below ${runtimeRoot} that systemd makes for the agent.";
      }
    ];

    # For status, explain and the other verbs.
    environment.systemPackages = [ cfg.package ];

    systemd.services.nixfleet-agent = {
      description = "Bring this host to its target closure";

      # Not ordered after the network, and bound to no other unit: what a crash or
      # a reboot left behind is sorted out on an offline laptop, too.
      wantedBy = [ "multi-user.target" ];

      # A switch that stopped the agent would stop the one who watches over it.
      restartIfChanged = false;
      stopIfChanged = false;
      unitConfig.X-StopOnRemoval = false;

      # An agent that gave up would leave a host that nobody can reach.
      unitConfig.StartLimitIntervalSec = 0;

      path = [
        config.nix.package
        config.systemd.package
        pkgs.coreutils
      ];

      # Nix wants a home for its caches, and fetches through the host's proxy.
      environment = config.networking.proxy.envVars // {
        HOME = cfg.settings.stateDir;
      };

      serviceConfig = {
        ExecStart = "${cfg.package}/bin/nixfleet-agent run --config ${cfg.configFile}";

        Type = "notify";
        NotifyAccess = "main";
        # Longer than a re-execution of PID 1, during which nobody answers.
        WatchdogSec = "3min";
        Restart = "always";
        RestartSec = "2s";

        # The agent alone is told to stop, so that it can end its work in order.
        KillMode = "mixed";
        TimeoutStopSec = "30s";

        StateDirectory = lib.removePrefix stateRoot cfg.settings.stateDir;
        StateDirectoryMode = "0700";
        # Kept over restarts, so that no client finds the directory missing.
        RuntimeDirectory = lib.removePrefix runtimeRoot socketDirectory;
        RuntimeDirectoryPreserve = "yes";
      };
    };
  };
}
